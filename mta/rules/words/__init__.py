"""What rules can say: every word, declared beside what answers it."""
