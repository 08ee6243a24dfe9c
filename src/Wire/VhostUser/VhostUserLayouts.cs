using System.Runtime.InteropServices;

namespace Virtbus.Wire.VhostUser;

// What the messages carry, in the order of the specification (docs/interop/vhost-user.rst of QEMU); what is Linux's own there has the layout of
// linux/vhost_types.h. All numbers are in host byte order. A struct is read once from the bytes that came, and looked at then.

/// <summary>The head of every message; nothing aligns what follows.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VhostUserHeader
{
    internal VhostUserRequest Request;
    internal uint Flags;
    /// <summary>Bytes of the payload.</summary>
    internal uint Size;
}

/// <summary>A ring's index and a number: <c>struct vhost_vring_state</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VhostUserRingState
{
    internal uint Index;
    internal uint Value;
}

/// <summary>Where a ring is, in addresses of the front end: <c>struct vhost_vring_addr</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VhostUserRingAddress
{
    internal uint Index;
    internal uint Flags;
    internal ulong Descriptors;
    internal ulong Used;
    internal ulong Available;
    internal ulong Log;
}

/// <summary>The head of SET_MEM_TABLE; regions follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VhostUserMemoryTable
{
    internal uint Count;
    internal uint Padding;
}

/// <summary>A piece of the guest's memory: <c>struct vhost_memory_region</c>, with the place in the descriptor's file as its last number.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VhostUserRegion
{
    internal ulong GuestAddress;
    internal ulong Size;
    internal ulong UserAddress;
    internal ulong FileOffset;
}

/// <summary>ADD_MEM_REG and REM_MEM_REG.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VhostUserSingleRegion
{
    internal ulong Padding;
    internal VhostUserRegion Region;
}

/// <summary>The head of GET_CONFIG and SET_CONFIG; the bytes follow.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VhostUserConfig
{
    internal uint Offset;
    internal uint Size;
    internal uint Flags;
}
