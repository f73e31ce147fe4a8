"""Whether intervals cover, p-values are uniform and corrections correct, on populations of real texts.

python -m tests.calibration --data ../shared/data -o moetrace-calibration
"""
