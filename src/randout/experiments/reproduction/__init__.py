"""The paper's tables, figures and sections, reproduced."""
