"""The networks that DMCNN was compared with, one file each."""
