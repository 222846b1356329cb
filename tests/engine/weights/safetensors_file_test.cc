#include "engine/weights/safetensors_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/weights/checkpoint.h"
#include "tests/engine/weights/temp_dir.h"

namespace moed {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kTwoTensors[] =
    R"({"__metadata__": {"format": "pt"},)"
    R"( "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},)"
    R"( "b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]}}   )";

std::string Entry(const char* name, const char* dtype, const char* shape, const char* offsets) {
  return absl::StrCat("\"", name, "\": {\"dtype\": \"", dtype, "\", \"shape\": ", shape,
                      ", \"data_offsets\": ", offsets, "}");
}

// The message with which a file of these bytes is refused, which must be DATA_LOSS and name the
// file.
std::string Refusal(const std::string& bytes) {
  const TempDir dir;
  const std::string path = dir.Write("x.safetensors", bytes);
  const absl::Status status = SafetensorsFile::Open(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  return std::string(status.message());
}

std::string HeaderRefusal(const std::string& entries, size_t data_bytes) {
  return Refusal(SafetensorsBytes(absl::StrCat("{", entries, "}"), std::string(data_bytes, 'x')));
}

TEST(SafetensorsFileTest, ReadsShapesTypesAndData) {
  const TempDir dir;
  const float values[] = {1.5f, -2.0f};
  std::string data(reinterpret_cast<const char*>(values), 8);
  data += "abcdef";
  const auto file =
      SafetensorsFile::Open(dir.Write("x.safetensors", SafetensorsBytes(kTwoTensors, data)));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 2u);
  const TensorInfo& a = file->tensors().at("a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_THAT(a.shape, ElementsAre(2, 1));
  EXPECT_EQ(std::memcmp(file->Data(a).data(), values, 8), 0);
  const TensorInfo& b = file->tensors().at("b");
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_EQ(std::memcmp(file->Data(b).data(), "abcdef", 6), 0);
}

TEST(SafetensorsFileTest, DataIsThereAgainAfterItsPagesWereReleased) {
  const TempDir dir;
  const std::string data(1 << 16, 'q');
  const auto file = SafetensorsFile::Open(dir.Write(
      "x.safetensors",
      SafetensorsBytes(absl::StrCat("{", Entry("a", "U8", "[65536]", "[0, 65536]"), "}"), data)));
  ASSERT_TRUE(file.ok()) << file.status();
  const std::span<const std::byte> bytes = file->Data(file->tensors().at("a"));
  file->Prefetch(bytes);
  file->Release(bytes);
  EXPECT_EQ(std::memcmp(bytes.data(), data.data(), data.size()), 0);
}

TEST(SafetensorsFileTest, EmptyTensorsAndScalarsAreFine) {
  const TempDir dir;
  const std::string header = absl::StrCat("{", Entry("none", "F32", "[0, 7]", "[0, 0]"), ",",
                                          Entry("scalar", "I64", "[]", "[0, 8]"), "}");
  const auto file = SafetensorsFile::Open(
      dir.Write("x.safetensors", SafetensorsBytes(header, std::string(8, 'x'))));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_FALSE(file->tensors().at("scalar").dtype.has_value());
}

TEST(SafetensorsFileTest, AFileCutAnywhereIsRefused) {
  const std::string whole = SafetensorsBytes(kTwoTensors, "12345678abcdef");
  for (size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    Refusal(whole.substr(0, size));
  }
}

TEST(SafetensorsFileTest, BytesAfterTheLastTensorAreRefused) {
  EXPECT_THAT(Refusal(SafetensorsBytes(kTwoTensors, "12345678abcdef!")),
              HasSubstr("15 bytes of data, but its tensors end at 14"));
}

TEST(SafetensorsFileTest, HugeHeaderLengthsAreRefused) {
  for (const uint64_t length :
       {~uint64_t{0}, ~uint64_t{7}, uint64_t{1} << 63, uint64_t{100000001}, uint64_t{1} << 32}) {
    std::string bytes = SafetensorsBytes(kTwoTensors, "12345678abcdef");
    std::memcpy(bytes.data(), &length, 8);
    EXPECT_THAT(Refusal(bytes), HasSubstr("the header is said to have"));
  }
}

TEST(SafetensorsFileTest, OffsetsBeyondTheFileAreRefusedByTensor) {
  EXPECT_THAT(HeaderRefusal(Entry("w", "F32", "[2]", "[0, 8]"), 4),
              HasSubstr("key 'w.data_offsets': expected an end within the 4 bytes"));
  EXPECT_THAT(
      HeaderRefusal(Entry("w", "F32", "[2]", "[9223372036854775799, 9223372036854775807]"), 8),
      HasSubstr("'w.data_offsets'"));
  EXPECT_THAT(HeaderRefusal(Entry("w", "F32", "[2]", "[0, 18446744073709551615]"), 8),
              HasSubstr("'w.data_offsets'"));
  EXPECT_THAT(HeaderRefusal(Entry("w", "F32", "[2]", "[8, 0]"), 8),
              HasSubstr("expected a begin and an end"));
  EXPECT_THAT(HeaderRefusal(Entry("w", "F32", "[2]", "[-8, 0]"), 8), HasSubstr("'w.data_offsets'"));
  EXPECT_THAT(HeaderRefusal(Entry("w", "F32", "[2]", "[0, 4, 8]"), 8),
              HasSubstr("expected a begin and an end"));
}

TEST(SafetensorsFileTest, ShapesThatDisagreeWithTheBytesAreRefusedByTensor) {
  EXPECT_THAT(HeaderRefusal(Entry("w", "F32", "[3]", "[0, 8]"), 8),
              HasSubstr("key 'w.data_offsets': expected 12 bytes, as dtype and shape array [3]"));
  EXPECT_THAT(HeaderRefusal(Entry("w", "BF16", "[-4]", "[0, 8]"), 8), HasSubstr("'w.shape'"));
}

TEST(SafetensorsFileTest, ShapesThatOverflowAreRefused) {
  // 2^32 * 2^32 elements of 4 bytes are 0 bytes modulo 2^64.
  EXPECT_THAT(HeaderRefusal(Entry("w", "F32", "[4294967296, 4294967296]", "[0, 0]"), 0),
              HasSubstr("more than 2^64 bytes"));
  EXPECT_THAT(HeaderRefusal(Entry("w", "F32", "[1,1,1,1,1,1,1,1,1]", "[0, 4]"), 4),
              HasSubstr("at most 8 dimensions"));
}

TEST(SafetensorsFileTest, OverlapsAndHolesAreRefusedByTensor) {
  EXPECT_THAT(
      HeaderRefusal(
          absl::StrCat(Entry("a", "U8", "[8]", "[0, 8]"), ",", Entry("b", "U8", "[8]", "[4, 12]")),
          12),
      HasSubstr("tensor 'b' begins at byte 4, expected the end of the one before it, 8 (they "
                "overlap)"));
  EXPECT_THAT(HeaderRefusal(absl::StrCat(Entry("a", "U8", "[8]", "[0, 8]"), ",",
                                         Entry("b", "U8", "[8]", "[0, 8]")),
                            8),
              HasSubstr("overlap"));
  EXPECT_THAT(HeaderRefusal(
                  Entry("a", "U8", "[4]", "[0, 4]") + "," + Entry("b", "U8", "[4]", "[8, 12]"), 12),
              HasSubstr("tensor 'b' begins at byte 8, expected the end of the one before it, 4"));
}

TEST(SafetensorsFileTest, EntriesThatAreNotTensorsAreRefused) {
  EXPECT_THAT(HeaderRefusal(Entry("w", "F31", "[2]", "[0, 8]"), 8),
              HasSubstr("key 'w.dtype': expected a safetensors type such as BF16"));
  EXPECT_THAT(HeaderRefusal(R"("w": {"shape": [2], "data_offsets": [0, 8]})", 8),
              HasSubstr("'w.dtype'"));
  EXPECT_THAT(HeaderRefusal(R"("w": {"dtype": "F32", "data_offsets": [0, 4]})", 4),
              HasSubstr("'w.shape'"));
  EXPECT_THAT(HeaderRefusal(R"("w": {"dtype": "F32", "shape": []})", 4),
              HasSubstr("'w.data_offsets'"));
  EXPECT_THAT(HeaderRefusal(R"("w": 7)", 4), HasSubstr("key 'w': expected an object"));
  EXPECT_THAT(HeaderRefusal(R"("w": null)", 4), HasSubstr("key 'w': expected an object"));
}

TEST(SafetensorsFileTest, TwoTensorsOfOneNameAreRefused) {
  EXPECT_THAT(HeaderRefusal(absl::StrCat(Entry("a", "U8", "[4]", "[0, 4]"), ",",
                                         Entry("a", "U8", "[4]", "[4, 8]")),
                            8),
              HasSubstr("duplicate key 'a'"));
}

TEST(SafetensorsFileTest, AMissingFileIsNotFound) {
  EXPECT_EQ(SafetensorsFile::Open("/nonexistent/x").status().code(), absl::StatusCode::kNotFound);
}

TEST(SafetensorsFileTest, ADirectoryIsRefused) {
  const TempDir dir;
  EXPECT_EQ(SafetensorsFile::Open(dir.path()).status().code(), absl::StatusCode::kInvalidArgument);
}

class CheckpointTest : public testing::Test {
 protected:
  void WriteShard(const char* file, const char* tensor) {
    dir_.Write(file, SafetensorsBytes(absl::StrCat("{", Entry(tensor, "U8", "[4]", "[0, 4]"), "}"),
                                      "abcd"));
  }
  void WriteIndex(const char* weight_map) {
    dir_.Write("model.safetensors.index.json",
               absl::StrCat("{\"weight_map\": {", weight_map, "}}"));
  }
  void ExpectRefused(absl::StatusCode code, const char* message) {
    const absl::Status status = Checkpoint::Open(dir_.path()).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  TempDir dir_;
};

TEST_F(CheckpointTest, ASingleFileGivesAllItsTensors) {
  dir_.Write("model.safetensors", SafetensorsBytes(kTwoTensors, "12345678abcdef"));
  const auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->tensors().size(), 2u);
  EXPECT_NE(checkpoint->Find("a"), nullptr);
  EXPECT_EQ(checkpoint->Find("c"), nullptr);
}

TEST_F(CheckpointTest, AnIndexGivesTheTensorsItListsAndNoOthers) {
  WriteShard("model-1.safetensors", "a");
  WriteShard("model-2.safetensors", "b");
  WriteShard("consolidated.safetensors", "c");
  WriteIndex(R"("a": "model-1.safetensors", "b": "model-2.safetensors")");
  const auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ASSERT_EQ(checkpoint->tensors().size(), 2u);
  EXPECT_EQ(checkpoint->Find("b")->file->path(), dir_.path() + "/model-2.safetensors");
}

TEST_F(CheckpointTest, FilesOutsideTheDirectoryAreRefused) {
  WriteShard("model-1.safetensors", "a");
  for (const char* name : {"../a.safetensors", "/etc/passwd", "x/../y", "", ".", "..", "a\\\\b"}) {
    WriteIndex(absl::StrCat("\"a\": \"", name, "\"").c_str());
    ExpectRefused(absl::StatusCode::kInvalidArgument, "the name of a file beside the index");
  }
}

TEST_F(CheckpointTest, AnIndexThatLiesIsRefusedByTensor) {
  WriteShard("model-1.safetensors", "a");
  WriteIndex(R"("a": "model-1.safetensors", "b": "model-1.safetensors")");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "tensor 'b' is said to be in");
  WriteIndex(R"("a": 7)");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "key 'weight_map.a'");
  dir_.Write("model.safetensors.index.json", "{}");
  ExpectRefused(absl::StatusCode::kInvalidArgument, "key 'weight_map'");
}

TEST_F(CheckpointTest, AMissingShardIsNotFound) {
  WriteIndex(R"("a": "model-9.safetensors")");
  ExpectRefused(absl::StatusCode::kNotFound, "model-9.safetensors");
}

TEST_F(CheckpointTest, ADirectoryWithoutWeightsIsNotFound) {
  ExpectRefused(absl::StatusCode::kNotFound, "expected model.safetensors or");
}

}  // namespace
}  // namespace moed
