// What is used of DWARF 5's numbers (section 7), with GNU's of before it was there.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <cstdint>

namespace tenon::object::dwarf {

namespace tag {
inline constexpr unsigned array_type = 0x01, class_type = 0x02, enumeration_type = 0x04, formal_parameter = 0x05,
                          label = 0x0A, lexical_block = 0x0B, pointer_type = 0x0F, reference_type = 0x10,
                          compile_unit = 0x11, structure_type = 0x13, subroutine_type = 0x15, typedef_ = 0x16,
                          union_type = 0x17, unspecified_parameters = 0x18, inlined_subroutine = 0x1D,
                          ptr_to_member_type = 0x1F, catch_block = 0x25, const_type = 0x26, subprogram = 0x2E,
                          try_block = 0x32, variable = 0x34, volatile_type = 0x35, restrict_type = 0x37, namespace_ = 0x39,
                          rvalue_reference_type = 0x42, atomic_type = 0x47, call_site = 0x48, gnu_call_site = 0x4109;
}

namespace attribute {
inline constexpr unsigned sibling = 0x01, location = 0x02, name = 0x03, byte_size = 0x0B, low_pc = 0x11, language = 0x13,
                          containing_type = 0x1D, producer = 0x25, prototyped = 0x27, upper_bound = 0x2F, abstract_origin = 0x31,
                          count = 0x37, declaration = 0x3C, specification = 0x47, type = 0x49, ranges = 0x55,
                          signature = 0x69, linkage_name = 0x6E, str_offsets_base = 0x72, addr_base = 0x73,
                          gnu_addr_base = 0x2133;
}

namespace form {
inline constexpr std::uint64_t addr = 0x01, block2 = 0x03, block4 = 0x04, data2 = 0x05, data4 = 0x06, data8 = 0x07,
                               string = 0x08, block = 0x09, block1 = 0x0A, data1 = 0x0B, flag = 0x0C, sdata = 0x0D,
                               strp = 0x0E, udata = 0x0F, ref_addr = 0x10, ref1 = 0x11, ref2 = 0x12, ref4 = 0x13,
                               ref8 = 0x14, ref_udata = 0x15, indirect = 0x16, sec_offset = 0x17, exprloc = 0x18,
                               flag_present = 0x19, strx = 0x1A, addrx = 0x1B, ref_sup4 = 0x1C, strp_sup = 0x1D,
                               data16 = 0x1E, line_strp = 0x1F, ref_sig8 = 0x20, implicit_const = 0x21, loclistx = 0x22,
                               rnglistx = 0x23, ref_sup8 = 0x24, strx1 = 0x25, strx2 = 0x26, strx3 = 0x27, strx4 = 0x28,
                               addrx1 = 0x29, addrx2 = 0x2A, addrx3 = 0x2B, addrx4 = 0x2C, gnu_addr_index = 0x1F01,
                               gnu_str_index = 0x1F02, gnu_ref_alt = 0x1F20, gnu_strp_alt = 0x1F21;
}

namespace op {
inline constexpr unsigned addr = 0x03, const4u = 0x0C, const8u = 0x0E, piece = 0x93, form_tls_address = 0x9B, addrx = 0xA1,
                          constx = 0xA2, gnu_push_tls_address = 0xE0, gnu_addr_index = 0xFB, gnu_const_index = 0xFC;
}

namespace unit {
inline constexpr unsigned compile = 1, type = 2, skeleton = 4, split_compile = 5, split_type = 6;
}

namespace language {
inline constexpr unsigned cxx = 0x04, cxx_03 = 0x19, cxx_11 = 0x1A, cxx_14 = 0x21, cxx_17 = 0x2B, cxx_20 = 0x2C;
}

} // namespace tenon::object::dwarf
