# Writes the file INPUT as the C++ string kStatusPage to OUTPUT; run with cmake -P. A raw string literal may hold at most
# 65536 characters by the standard's minimum, so the text is cut into pieces, which the compiler joins.
file(READ ${INPUT} text)
string(LENGTH "${text}" length)
set(pieces)
set(at 0)
while(at LESS length)
  string(SUBSTRING "${text}" ${at} 8000 piece)
  string(APPEND pieces "    R\"page(${piece})page\"\n")
  math(EXPR at "${at} + 8000")
endwhile()
file(WRITE ${OUTPUT} "#include \"server/metrics/status_page.h\"\n\nnamespace moed {\n\nconst char kStatusPage[] =\n${pieces};\n\n}  // namespace moed\n")
