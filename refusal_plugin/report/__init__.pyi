from .page import render as render
from .page import write as write
from .table import frame as frame
from .table import html_table as html_table
