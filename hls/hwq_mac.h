// sum += x * w, exactly: AMD's product type is as wide as it must be, the native one is sum's own.
#ifndef HWQ_MAC_H
#define HWQ_MAC_H

#include "hwq_pragmas.h"
#include "hwq_types.h"

namespace hwq {

template <class SUM, class X, class W> inline void mac(SUM &sum, const X &x, const W &w) {
#ifdef HWQ_NATIVE
  sum += static_cast<SUM>(x) * static_cast<SUM>(w);
#else
  sum += x * w;
#endif
}

} // namespace hwq

#endif
