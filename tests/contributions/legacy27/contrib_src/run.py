import os
from modelhubapi import webservice
from inference import Model


if __name__ == "__main__":
    contribSrcDir = os.path.dirname(os.path.realpath(__file__))
    webservice.start(Model(), contribSrcDir)
