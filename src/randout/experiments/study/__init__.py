"""Studies: arms compared over seeds or folds."""
