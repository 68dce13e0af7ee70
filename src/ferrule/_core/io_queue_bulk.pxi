cdef enum:
    BULK_WINDOW = 256
