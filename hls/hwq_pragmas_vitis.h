// Vitis HLS spellings; included by hwq_pragmas.h only.
#ifndef HWQ_PRAGMAS_VITIS_H
#define HWQ_PRAGMAS_VITIS_H

// A flushing pipeline lets finished words leave while the next input is awaited: without it a
// stalled process could hold back words that its own input waits for (residual branches).
#define HWQ_PIPELINE HWQ_PRAGMA(HLS PIPELINE II=1 style=flp)
#define HWQ_UNROLL HWQ_PRAGMA(HLS UNROLL)
#define HWQ_BANKS(name, count, axis) HWQ_PRAGMA(HLS ARRAY_PARTITION variable=name type=cyclic factor=count dim=axis)
#define HWQ_WIDE(name, count, axis) HWQ_PRAGMA(HLS ARRAY_RESHAPE variable=name type=cyclic factor=count dim=axis)
#define HWQ_REGISTERS(name, axis) HWQ_PRAGMA(HLS ARRAY_PARTITION variable=name type=complete dim=axis)
#define HWQ_RAM(name) HWQ_PRAGMA(HLS BIND_STORAGE variable=name type=ram_s2p)
#define HWQ_ROM(name) HWQ_PRAGMA(HLS BIND_STORAGE variable=name type=rom_1p)
#define HWQ_PACK(name) HWQ_PRAGMA(HLS AGGREGATE variable=name compact=bit)
// AXI ports are packed without a pragma, to whole bytes, and take no compact=bit.
#define HWQ_PACK_PORT(name)

#endif
