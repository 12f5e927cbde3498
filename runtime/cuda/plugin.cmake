# plugin.cmake - libdopl_cuda.so: what `--device cuda` opens.
#
# The plug-in links the core library, which the program or the Lua module that opens it has loaded
# already, and shows one name of its own (core/device.h).
# The target `plugin` is there always, and builds what there is to build.

option(DOPL_CUDA "build the CUDA plug-in where nvcc 12.4 or newer is found" ON)

file(GLOB CUDA_HOST_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/runtime/cuda/*.c)
file(GLOB_RECURSE CUDA_KERNEL_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.cu)

# What the plug-in and its emulated twin (spec/cuda) have in common.
function(set_up_plugin target)
  set_target_properties(${target} PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR} C_VISIBILITY_PRESET hidden
    CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden)
  target_link_libraries(${target} PRIVATE dopl_core m ${CMAKE_DL_LIBS})
  target_link_options(${target} PRIVATE
    -Wl,-z,defs) # an operator without a kernel is a link error that names it
endfunction()

add_custom_target(plugin)
if(NOT DOPL_CUDA OR DOPL_SANITIZE)
  return()
endif()

function(no_plugin reason)
  message(STATUS "CUDA plug-in: not built: ${reason}")
endfunction()

# Installers of CUDA put nvcc where PATH seldom looks.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(NVCC nvcc PATHS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda /opt/cuda
    PATH_SUFFIXES bin)
  if(NOT NVCC)
    no_plugin("no nvcc in PATH, CUDA_HOME or /usr/local/cuda")
    return()
  endif()
  set(ENV{CUDACXX} ${NVCC})
  unset(CMAKE_CUDA_COMPILER CACHE) # an earlier look that found nothing is not the last word
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  no_plugin("$ENV{CUDACXX} compiles nothing here: it wants g++, and one it knows \
(-DCMAKE_CUDA_HOST_COMPILER=g++-13 names another)")
  return()
endif()
find_package(CUDAToolkit 12.4 QUIET)
if(NOT CUDAToolkit_FOUND OR NOT TARGET CUDA::cublasLt OR NOT TARGET CUDA::nvrtc)
  no_plugin("${CMAKE_CUDA_COMPILER} is of no CUDA 12.4 or newer with cuBLASLt and NVRTC beside it")
  return()
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90) # 90: machine code, and PTX for what is newer
endif()
enable_language(CUDA)

add_library(dopl_cuda MODULE
  ${CUDA_HOST_SOURCES} ${CUDA_KERNEL_SOURCES})
set_up_plugin(dopl_cuda)
set_target_properties(dopl_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON
  CUDA_RUNTIME_LIBRARY Static)
target_compile_options(dopl_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-maybe-uninitialized>"
  # registers that spill, and arrays that are no registers, are warnings
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills,-warn-lmem-usage>")
if(STRICT AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0 AND
   CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.1)
  # errors with the CUDA and the gcc that we develop with; others have other opinions, and must
  # still build: nvcc hands this on to its g++
  target_compile_options(dopl_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings>")
endif()
target_link_libraries(dopl_cuda PRIVATE CUDA::cudart_static CUDA::cublasLt CUDA::nvrtc)

# Where CUDA's libraries lie: CMake leaves nvcc's own folders out of the run path, and the loader
# knows them only where an installer told it. As DT_RPATH, which libnvrtc inherits when it opens
# libnvrtc-builtins, as its own has none; the same way we open NCCL.
get_filename_component(CUDA_LIBRARIES ${CUDA_nvrtc_LIBRARY} DIRECTORY)
find_library(NCCL_LIBRARY nccl HINTS ${CUDA_LIBRARIES})
if(NCCL_LIBRARY)
  get_filename_component(NCCL_FOLDER ${NCCL_LIBRARY} DIRECTORY)
  list(APPEND CUDA_LIBRARIES ${NCCL_FOLDER})
  list(REMOVE_DUPLICATES CUDA_LIBRARIES)
endif()
set_run_path(dopl_cuda $ORIGIN $ORIGIN/lib ${CUDA_LIBRARIES})

add_dependencies(plugin dopl_cuda)

# What nvcc makes of the kernels before ptxas does the rest; specs run it (spec/cuda/ptx).
add_library(dopl_cuda_ptx OBJECT ${CUDA_KERNEL_SOURCES})
set_target_properties(dopl_cuda_ptx PROPERTIES CUDA_PTX_COMPILATION ON
  CUDA_ARCHITECTURES 90-virtual CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON)
install(TARGETS dopl_cuda LIBRARY DESTINATION lib/dopl OPTIONAL)
message(STATUS "CUDA plug-in: CUDA ${CMAKE_CUDA_COMPILER_VERSION}, architectures "
  "${CMAKE_CUDA_ARCHITECTURES}")
