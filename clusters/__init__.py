"""Where workers run, one file a kind. Adding one is one file and one line here."""
