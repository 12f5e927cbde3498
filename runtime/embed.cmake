# embed.cmake - writes the text file FROM as a C string literal into the file TO, for #include.
#
#   cmake -DFROM=kernels/optim/pass.cuh -DTO=pass.cuh.inc -P embed.cmake
file(READ ${FROM} text)
string(REPLACE "\\" "\\\\" text "${text}")
string(REPLACE "\"" "\\\"" text "${text}")
string(REPLACE "\n" "\\n\"\n\"" text "${text}")
file(WRITE ${TO} "\"${text}\"\n")
