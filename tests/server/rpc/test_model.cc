#include "tests/server/rpc/test_model.h"

#include <string>

#include "absl/strings/str_format.h"
#include "config/base/check.h"

namespace moed {
namespace {

constexpr int kNumBytes = 256;

// The letter that byte-level BPE writes for a byte (GPT-2's table), as UTF-8.
std::string LetterOfByte(int byte) {
  static constexpr auto kPrintable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code_point = byte;
  if (!kPrintable(byte)) {
    code_point = kNumBytes;
    for (int b = 0; b < byte; ++b) code_point += kPrintable(b) ? 0 : 1;
  }
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 63))};
}

std::string JsonString(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

}  // namespace

ServedModel TestModel() {
  ServedModel model;
  model.name = "tiny";
  model.config.architecture = "Qwen3MoeForCausalLM";
  model.config.vocab_size = 320;
  model.config.num_layers = 2;
  model.config.num_experts = 4;
  model.config.top_k = 2;
  model.config.layer_is_moe = {false, true};
  model.config.eos_token_ids = {0};
  model.vocab_size = 300;
  model.max_model_len = 100;
  model.max_text_bytes = 1000;
  model.dtype = "bf16";
  model.block_size = 16;
  model.server_version = "0.0.0";
  return model;
}

std::unique_ptr<Tokenizer> TestTokenizer() {
  std::string vocab = "\"<eos>\": 0";
  for (int byte = 0; byte < kNumBytes; ++byte) {
    vocab += absl::StrFormat(", %s: %d", JsonString(LetterOfByte(byte)), byte + 1);
  }
  const std::string json = absl::StrFormat(
      R"({"version": "1.0", "normalizer": null,
          "added_tokens": [{"id": 0, "content": "<eos>", "single_word": false, "lstrip": false,
                            "rstrip": false, "normalized": false, "special": true}],
          "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                            "use_regex": true},
          "post_processor": null,
          "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                      "use_regex": true},
          "model": {"type": "BPE", "dropout": null, "unk_token": null,
                    "continuing_subword_prefix": null, "end_of_word_suffix": null,
                    "fuse_unk": false, "byte_fallback": false, "vocab": {%s}, "merges": []}})",
      vocab);
  auto tokenizer = Tokenizer::FromJson(json, "");
  MOED_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

}  // namespace moed
