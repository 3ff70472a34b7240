// The pragmas the kernels use, one dialect a file: Vitis HLS by default, Vivado HLS with
// -DHWQ_VIVADO_HLS. A C++ compiler sees none of them.
#ifndef HWQ_PRAGMAS_H
#define HWQ_PRAGMAS_H

#if !defined(__SYNTHESIS__)

#define HWQ_PIPELINE
#define HWQ_UNROLL
#define HWQ_PARTITION(name, kind, count, axis)
#define HWQ_REGISTERS(name, axis)
#define HWQ_RAM(name)
#define HWQ_ROM(name)
#define HWQ_PACK(name)

#else

#define HWQ_PRAGMA_TEXT(text) _Pragma(#text)
#define HWQ_PRAGMA(text) HWQ_PRAGMA_TEXT(text)

#if defined(HWQ_VIVADO_HLS)
#include "hwq_pragmas_vivado.h"
#else
#include "hwq_pragmas_vitis.h"
#endif

#endif
#endif
