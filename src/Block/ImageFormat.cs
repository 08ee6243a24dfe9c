using System.Buffers.Binary;
using Virtbus.Platform;

namespace Virtbus.Block;

/// <summary>
/// Image formats of virtual machines, known by what stands in their first or last bytes. A disk here is its sectors and nothing else, so a
/// guest that is given such a file reads tables instead of its file system, and what it writes destroys them.
/// </summary>
/// <remarks>
/// LUKS is none of them: a guest makes and opens that by itself, and its bytes are the disk's. What a guest writes to its own disk can look
/// like any format; the operator's word that the file is raw goes before this.
/// </remarks>
internal static class ImageFormat
{
    private const int HeadSize = 512;
    private const int FooterSize = 512;
    private const int VdiSignatureOffset = 64;
    private const uint VdiSignature = 0xbeda107f;

    /// <summary>The format of a file; null when its bytes say none.</summary>
    /// <param name="file">The file, open for reading.</param>
    /// <param name="size">Its size in bytes.</param>
    /// <param name="driver">What <c>qemu-img -f</c> is to be told, where it does not find the format by itself.</param>
    internal static string? Find(FileDescriptor file, long size, out string? driver)
    {
        driver = null;
        Span<byte> bytes = stackalloc byte[HeadSize];
        var count = Math.Max((int)file.Read(bytes, 0, out _), 0);
        if (NameOf(bytes[..count]) is { } name)
            return name;
        // A fixed VHD is its sectors with a footer behind them.
        if (size < FooterSize || file.Read(bytes[..FooterSize], size - FooterSize, out _) != FooterSize || !bytes.StartsWith("conectix"u8))
            return null;
        driver = "vpc";
        return "VHD";
    }

    private static string? NameOf(ReadOnlySpan<byte> head)
    {
        ReadOnlySpan<byte> qcow = [(byte)'Q', (byte)'F', (byte)'I', 0xfb];
        if (head.StartsWith(qcow) && head.Length >= 8)
            return BinaryPrimitives.ReadUInt32BigEndian(head[4..]) == 1 ? "qcow" : "qcow2";
        if (head.StartsWith("QED\0"u8))
            return "QED";
        if (head.StartsWith("vhdxfile"u8))
            return "VHDX";
        if (head.StartsWith("conectix"u8))
            return "VHD";
        // A sparse extent of a hosted product, one of a server, and a text that names the files with the sectors.
        if (head.StartsWith("KDMV"u8) || head.StartsWith("COWD"u8) || head.StartsWith("# Disk DescriptorFile"u8))
            return "VMDK";
        if (head.Length >= VdiSignatureOffset + 4 && BinaryPrimitives.ReadUInt32LittleEndian(head[VdiSignatureOffset..]) == VdiSignature)
            return "VDI";
        return head.StartsWith("WithoutFreeSpace"u8) || head.StartsWith("WithouFreSpacExt"u8) ? "Parallels" : null;
    }
}
