"""A scripted session with mta lua repl on a terminal; test_lua_repl.py runs it where the rules and m.eml lie."""

import sys
from pathlib import Path

import pexpect

screen = pexpect.spawn(
    sys.executable, ["-m", "mta", "lua", "repl", "rules"], dimensions=(40, 130), timeout=60, encoding="utf-8"
)
screen.logfile_read = sys.stdout
screen.expect("5 rules")
screen.expect("mta>")
screen.send("20 + 22\r")
screen.expect(r"42\r\n")
screen.send("for n = 1, 2 do\r")  # not complete: the next lines belong to it
screen.send("print('line ' .. n)\r")
screen.send("end\r")
screen.expect("line 1")
screen.expect("line 2")
screen.send(":load m.eml\r")
screen.expect("Subject: Hello")
screen.send(":step rcpt\r")
screen.expect("250 2.1.5 Welcome")
screen.expect("not reached never")
screen.expect("rcpt>")
screen.send(":wh")
screen.expect("who decided what")  # the menu tells what a command is for
screen.send("y\r")
screen.expect('accept by "welcome"')
screen.send("mail.headers:get('Subject')\r")
screen.expect("mail.headers:get is not known before preq")
screen.send(":run\r")
screen.expect("result")
screen.send("while true do end\r")
screen.expect("did not come to an end")
screen.send(":watch\r")
screen.expect("runs the session again")
main = Path("rules/main.lua")
main.write_text(main.read_text().replace('"welcome"', '"hello again"'))
screen.expect("hello again")
screen.expect("result")
screen.sendcontrol("d")
screen.expect(pexpect.EOF)
screen.wait()  # close() would end it, before it has said how it ended
screen.close()
assert screen.exitstatus == 0
