"""NumPy's matrix products, on one core."""

import os


def limit_blas_threads() -> None:
    """Have NumPy multiply in the calling thread, unless the user has decided otherwise; before NumPy is imported.

    OpenBLAS splits a product between all cores, and each of its threads then turns in a circle for 2^26 cycles, in case
    that there is another one (`THREAD_TIMEOUT` in https://github.com/OpenMathLib/OpenBLAS, Makefile.rule). The products
    of a frame, points times a pose, are too small to gain from that: they take as long on one core, and half of the
    processor time.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
