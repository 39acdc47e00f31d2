"""Text in, tokens with named roles out: rows, number sequences and traits."""
