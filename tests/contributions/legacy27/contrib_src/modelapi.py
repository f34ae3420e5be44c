import os
from modelhubapi import ModelHubAPI
from inference import Model


contribSrcDir = os.path.dirname(os.path.realpath(__file__))
model = ModelHubAPI(Model(), contribSrcDir)
