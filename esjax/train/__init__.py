"""The training pipeline (extra `train`), which the core never imports."""
