#include "tests/server/tokenizer/fixtures.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "config/base/check.h"

namespace moed::testing {
namespace {

using nlohmann::json;

const std::string kTestData = std::string(MOED_SOURCE_DIR) + "/tests/testdata/tokenizer/";

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::string StringOf(const json& line) {
  if (line.is_string()) return line.get<std::string>();
  if (line.contains("hex")) return FromHex(line["hex"].get<std::string>());
  std::string text;
  for (int i = 0; i < line["times"].get<int>(); ++i) text += line["text"].get<std::string>();
  return text;
}

std::vector<uint32_t> ReadHashes(const std::string& digits) {
  std::vector<uint32_t> hashes;
  for (size_t i = 0; i < digits.size(); i += 8) {
    hashes.push_back(static_cast<uint32_t>(std::stoul(digits.substr(i, 8), nullptr, 16)));
  }
  return hashes;
}

}  // namespace

std::vector<std::string> SampleStrings() {
  std::ifstream file(kTestData + "strings.jsonl");
  std::vector<std::string> strings;
  for (std::string line; std::getline(file, line);) strings.push_back(StringOf(json::parse(line)));
  MOED_CHECK(strings.size() > 2000);
  return strings;
}

Golden ReadGolden(const std::string& name) {
  std::ifstream file(kTestData + "golden/" + name + ".json");
  MOED_CHECK(file.good());
  const json content = json::parse(file);
  Golden golden;
  golden.first_ids = content["ids"].get<std::vector<std::vector<int32_t>>>();
  golden.ids_hashes = ReadHashes(content["ids_hashes"].get<std::string>());
  golden.literal_ids_hashes = ReadHashes(content["literal_ids_hashes"].get<std::string>());
  golden.text_hashes = ReadHashes(content["text_hashes"].get<std::string>());
  for (const json& noise : content["noise"]) {
    golden.noise.push_back({noise["ids"].get<std::vector<int32_t>>(),
                            noise["text"].get<std::string>(),
                            noise["full_text"].get<std::string>()});
  }
  return golden;
}

uint32_t HashOf(std::string_view bytes) {
  uint32_t hash = 0x811c9dc5;
  for (const char byte : bytes) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x01000193;
  return hash;
}

uint32_t HashOf(std::span<const int32_t> ids) {
  std::string bytes;
  for (const int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(id >> shift));
  }
  return HashOf(std::string_view(bytes));
}

std::string ModelDir(const std::string& name) {
  const std::string root = std::string(MOED_SOURCE_DIR) + "/";
  for (const std::string& dir :
       {kTestData + "synthetic/" + name, name == "tales" ? root + "config/demo" : "",
        root + "../shared/tokenizers/" + name, root + "../shared/models/" + name}) {
    if (!dir.empty() && std::filesystem::exists(dir + "/tokenizer.json")) return dir;
  }
  return "";
}

}  // namespace moed::testing
