import os

from modelhubapi import ModelHubAPI
from inference import Model


model = Model()
contrib_src_dir = os.path.dirname(os.path.realpath(__file__))
model = ModelHubAPI(model, contrib_src_dir)
