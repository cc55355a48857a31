# SPDX-License-Identifier: Apache-2.0
# generate_interfaces(<dependency>...)
#
# The types of every .msg file in msg/ of the current project, for every language and middleware that is installed.
# A macro, since ament keeps what it must export in variables of the caller.
macro(generate_interfaces)
  find_package(rosidl_default_generators REQUIRED)
  foreach(_dependency ${ARGN})
    find_package(${_dependency} REQUIRED)
  endforeach()
  file(GLOB _interfaces RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" CONFIGURE_DEPENDS msg/*.msg)
  rosidl_generate_interfaces(${PROJECT_NAME} ${_interfaces} DEPENDENCIES ${ARGN})
  _build_only_includes(${PROJECT_NAME}__rosidl_generator_py)
  cmake_language(DEFER CALL _drop_missing_includes)
endmacro()

# The Python bindings would export the include folders of Python and NumPy. Nobody who links them needs these, and CMake
# refuses to export a folder inside the source tree, which is where a checkout's virtual environment lies.
function(_build_only_includes target)
  if(TARGET ${target})
    get_target_property(_includes ${target} INTERFACE_INCLUDE_DIRECTORIES)
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "$<BUILD_INTERFACE:${_includes}>")
  endif()
endfunction()

# The exported targets of the ROS wheels name include folders of the machine that they were built on, and CMake refuses
# an imported target with a folder that does not exist. Where every folder exists this changes nothing.
function(_drop_missing_includes)
  get_property(_targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(_target IN LISTS _targets)
    get_target_property(_includes ${_target} INTERFACE_INCLUDE_DIRECTORIES)
    if(_includes)
      set(_existing "")
      foreach(_include IN LISTS _includes)
        if(_include MATCHES "^\\$<" OR EXISTS "${_include}")
          list(APPEND _existing "${_include}")
        endif()
      endforeach()
      set_target_properties(${_target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${_existing}")
    endif()
  endforeach()
endfunction()
