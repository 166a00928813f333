"""Reads rules without running them and says what is wrong: `look(sources, words)` gives findings, errors and warnings.

    error      it fails, certainly, when it is reached; rules with one are not loaded
    warning    it may be meant so

==========  ===================================================================
tree        a file as a syntax tree, and where things stand in it
names       what each name means: a local, a word, `mail` in a rule
uses        words that do not exist, or not at this stage; globals
written     replies and patterns that stand in the text
flow        rules never asked, code never reached
order       a question to the outside before a test that costs nothing
patterns    how long a hostile text can keep a pattern busy
==========  ===================================================================

What cannot be told from the text (a name built at run time, a table handed about) is left to the run: no false errors.
"""

from mta.rules.check.look import errors, is_rules, look
from mta.rules.check.names import named
from mta.rules.check.tree import ERROR, WARNING, Finding, Source

__all__ = ["ERROR", "WARNING", "Finding", "Source", "errors", "is_rules", "look", "named"]
