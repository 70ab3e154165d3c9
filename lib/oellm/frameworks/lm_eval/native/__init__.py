"""Parts of the reader of lm-eval's own result files."""
