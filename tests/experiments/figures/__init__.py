"""The figures of docs/findings.md, drawn from the results that are kept beside it."""
