"""The declared words as people read them: the reference, the editor's annotations, the table of verdicts."""
