"""What a mail is: values and pure functions. No socket, no file, no gevent."""
