"""Benchmarks: hubstore beside the bare work, and beside the tools one would use instead, in one run.

python -m benchmarks.cpu            every suite, printed
python -m benchmarks.cpu store      one of them
python -m benchmarks.gpu            the kernels at full size on a GPU; gpu topk lens: some of them
python -m benchmarks.table --check  are the READMEs' tables those of benchmarks/results?
"""
