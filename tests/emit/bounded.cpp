// Runs a project's top function on bounded FIFOs: bounded PIXELS IMAGES RESULT [STREAM=DEPTH ...]
// PIXELS: bytes, image after image. RESULT gets every op's codes as int64, op by op.
// Exit 0; 3 and "DEADLOCK" with the blocked streams when no process can go on.
#include <cstdint>

#include "project.h"

using namespace hwq_project;

static const size_t first_depth = 4;

int main(int argc, char **argv) {
  if (argc < int(first_depth)) return 2;
  auto &net = hwq::sim::network();
  net.images = atoi(argv[2]);
  for (int i = first_depth; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t equals = text.find('=');
    net.depths[text.substr(0, equals)] = unsigned(atoi(text.c_str() + equals + 1));
  }
  std::vector<uint8_t> pixels(size_t(net.images) * size_t(ops[0].size));
  FILE *file = fopen(argv[1], "rb");
  if (!file || fread(pixels.data(), 1, pixels.size(), file) != pixels.size()) return 2;
  fclose(file);

  hwq::stream<in_word> in("pixels");
  hwq::stream<out_word> out("result");
  in.limit(0);
  out.limit(0);
  for (size_t i = 0; i < pixels.size(); i += in_word::lanes) {
    in_word x;
    for (int l = 0; l < in_word::lanes; ++l) x.v[l] = pixels[i + l];
    in.write(x);
  }
  HWQ_TOP(in, out);
  if (!in.empty()) return 1;

  file = fopen(argv[3], "wb");
  for (int i = 0; i < op_count; ++i) {
    const auto &values = net.recorded[i];
    if (values.size() != size_t(net.images) * size_t(ops[i].size)) {
      printf("op %s: %zu codes\n", ops[i].name, values.size());
      return 1;
    }
    fwrite(values.data(), sizeof(long long), values.size(), file);
  }
  fclose(file);
  return 0;
}
