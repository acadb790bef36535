// Products of codes with rows that are whole numbers, on matrix units (AMX): bytes by bytes with sums of 32 bits.
#pragma once

#include "codes_by_bytes.h"

#if defined(MATRIX_UNITS) && defined(__AMX_INT8__)
#define BYTE_UNITS

// Whether the system lets this process use them.
inline bool byte_units() { return matrix_units(); }

// c[rows][panels] += rows * panels of a segment.
void multiply_bytes_by_units(Units& units, const ByteRows& rows, const Segment& s, long panel, long panels, float* c, long ldc);

#else

inline bool byte_units() { return false; }
inline void multiply_bytes_by_units(Units&, const ByteRows&, const Segment&, long, long, float*, long) {}

#endif
