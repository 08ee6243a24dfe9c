using System.Runtime.InteropServices;

namespace Virtbus.Platform.IoUring;

/// <summary><c>struct io_uring_params</c> (linux/io_uring.h).</summary>
[StructLayout(LayoutKind.Explicit, Size = 120)]
internal struct IoRingParameters
{
    [FieldOffset(0)] internal uint SubmissionEntries;
    [FieldOffset(4)] internal uint CompletionEntries;
    [FieldOffset(8)] internal uint Flags;
    [FieldOffset(20)] internal uint Features;
    [FieldOffset(40)] internal SubmissionOffsets Submission;
    [FieldOffset(80)] internal CompletionOffsets Completion;
}

/// <summary><c>struct io_sqring_offsets</c>: where in the mapping the fields of the submission ring are.</summary>
[StructLayout(LayoutKind.Explicit, Size = 40)]
internal struct SubmissionOffsets
{
    [FieldOffset(0)] internal uint Head;
    [FieldOffset(4)] internal uint Tail;
    [FieldOffset(8)] internal uint Mask;
    [FieldOffset(16)] internal uint Flags;
    [FieldOffset(24)] internal uint Array;
}

/// <summary><c>struct io_cqring_offsets</c>: the same of the completion ring.</summary>
[StructLayout(LayoutKind.Explicit, Size = 40)]
internal struct CompletionOffsets
{
    [FieldOffset(0)] internal uint Head;
    [FieldOffset(4)] internal uint Tail;
    [FieldOffset(8)] internal uint Mask;
    [FieldOffset(20)] internal uint Entries;
    [FieldOffset(24)] internal uint Flags;
}

/// <summary><c>struct io_uring_sqe</c>: one request.</summary>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal struct SubmissionEntry
{
    [FieldOffset(0)] internal byte Opcode;
    [FieldOffset(1)] internal byte Flags;
    [FieldOffset(4)] internal int Fd;
    [FieldOffset(8)] internal ulong Offset;
    [FieldOffset(16)] internal ulong Address;
    [FieldOffset(24)] internal uint Length;
    [FieldOffset(28)] internal uint OperationFlags;
    [FieldOffset(32)] internal ulong UserData;
}

/// <summary><c>struct io_uring_cqe</c>: how one ended.</summary>
[StructLayout(LayoutKind.Explicit, Size = 16)]
internal struct CompletionEntry
{
    [FieldOffset(0)] internal ulong UserData;
    [FieldOffset(8)] internal int Result;
    [FieldOffset(12)] internal uint Flags;
}

/// <summary><c>struct io_uring_probe_op</c>: what the kernel knows of one operation; behind 16 bytes of <c>struct io_uring_probe</c>.</summary>
[StructLayout(LayoutKind.Explicit, Size = 8)]
internal struct ProbeEntry
{
    internal const int HeaderSize = 16;
    internal const ushort Supported = 1;

    [FieldOffset(0)] internal byte Opcode;
    [FieldOffset(2)] internal ushort Flags;
}

/// <summary><c>struct io_uring_sync_cancel_reg</c>: which requests to cancel.</summary>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal struct CancelArgument
{
    [FieldOffset(0)] internal ulong UserData;
    [FieldOffset(8)] internal int Fd;
    [FieldOffset(12)] internal uint Flags;
    [FieldOffset(16)] internal long TimeoutSeconds;
    [FieldOffset(24)] internal long TimeoutNanoseconds;
}
