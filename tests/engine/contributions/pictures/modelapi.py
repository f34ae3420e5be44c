import os

from modelhubapi import ModelHubAPI
from inference import Model


contrib_src_dir = os.path.dirname(os.path.realpath(__file__))
model = ModelHubAPI(Model(), contrib_src_dir)
