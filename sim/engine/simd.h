// The few vector operations that the kernels are written in, for three instruction sets.
//
//   LANES    32-bit lanes of a vector          PIXELS   rows of a dot-product block
//   Vec      a vector, seen as LANES x int32 or 2 LANES x int16
//   Sums     LANES 64-bit sums
//
// Which set: by the flags this file is compiled with. All give the same integers.
#ifndef HWQ_ENGINE_SIMD_H
#define HWQ_ENGINE_SIMD_H

#include <stdint.h>
#include <string.h>

#if defined(HWQ_ENGINE_VNNI)
#include "simd_vnni.h"
#elif defined(HWQ_ENGINE_AVX2)
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif

#endif
