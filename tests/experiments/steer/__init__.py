"""Task experts of English, promoted, shifted and suppressed in six languages of the bundled model, with controls."""
