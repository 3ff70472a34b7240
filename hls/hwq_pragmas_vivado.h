// Vivado HLS spellings; included by hwq_pragmas.h only.
#ifndef HWQ_PRAGMAS_VIVADO_H
#define HWQ_PRAGMAS_VIVADO_H

#define HWQ_PIPELINE HWQ_PRAGMA(HLS PIPELINE II=1 enable_flush)
#define HWQ_UNROLL HWQ_PRAGMA(HLS UNROLL)
#define HWQ_BANKS(name, count, axis) HWQ_PRAGMA(HLS ARRAY_PARTITION variable=name cyclic factor=count dim=axis)
#define HWQ_WIDE(name, count, axis) HWQ_PRAGMA(HLS ARRAY_RESHAPE variable=name cyclic factor=count dim=axis)
#define HWQ_REGISTERS(name, axis) HWQ_PRAGMA(HLS ARRAY_PARTITION variable=name complete dim=axis)
#define HWQ_RAM(name) HWQ_PRAGMA(HLS RESOURCE variable=name core=RAM_S2P_BRAM)
#define HWQ_ROM(name) HWQ_PRAGMA(HLS RESOURCE variable=name core=ROM_1P)
#define HWQ_PACK(name) HWQ_PRAGMA(HLS DATA_PACK variable=name)
// Unpacked, a struct on a port becomes a port for each field.
#define HWQ_PACK_PORT(name) HWQ_PRAGMA(HLS DATA_PACK variable=name)

#endif
