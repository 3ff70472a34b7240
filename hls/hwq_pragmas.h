// The pragmas the kernels use, one dialect a file: Vitis HLS by default, Vivado HLS with
// -DHWQ_VIVADO_HLS. A C++ compiler sees none of them.
//   HWQ_BANKS      an array dealt out to `count` memories along an axis
//   HWQ_WIDE       `count` elements along an axis side by side in each word of a memory
//   HWQ_REGISTERS  an array taken apart into registers
//   HWQ_PACK       a struct, a stream of structs or an array of them: the fields in one wide word
//   HWQ_PACK_PORT  the same for a port of the top function
#ifndef HWQ_PRAGMAS_H
#define HWQ_PRAGMAS_H

#if !defined(__SYNTHESIS__)

#define HWQ_PIPELINE
#define HWQ_UNROLL
#define HWQ_BANKS(name, count, axis)
#define HWQ_WIDE(name, count, axis)
#define HWQ_REGISTERS(name, axis)
#define HWQ_RAM(name)
#define HWQ_ROM(name)
#define HWQ_PACK(name)
#define HWQ_PACK_PORT(name)

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
