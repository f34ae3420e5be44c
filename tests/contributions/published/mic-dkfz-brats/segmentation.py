import numpy as np
import SimpleITK as sitk


def segment(t1, t1c, t2, flair, folds):
    """Label of each voxel, z first."""
    for fold in folds:
        np.load("model/params/%d/model_best.npy" % fold)
    volumes = [sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (t1, t1c, t2, flair)]
    return np.argmax(np.stack(volumes), axis=0).astype(np.uint8)
