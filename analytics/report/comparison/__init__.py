"""The page of two runs side by side: how they differ by depth, by language and by expert, and on the same tokens."""
