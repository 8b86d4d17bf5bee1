"""What a whole job imports, imported at once: for a fork server whose children then start in no time."""

# ruff: noqa: F401
import gc

import matplotlib.figure
import pyarrow.parquet
import sklearn.svm
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.bert import modeling_bert, tokenization_bert
from transformers.models.roberta import modeling_roberta, tokenization_roberta

from randout.experiments.run import pipeline, planning
from support import training

gc.freeze()  # no child goes through the libraries' objects for garbage
