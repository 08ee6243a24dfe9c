using System.Buffers.Binary;
using System.Text;
using Virtbus.Platform;

namespace Virtbus.Vm;

/// <summary>The little that is read of a 64-bit little-endian ELF file: a section by name, and whether a program is linked statically.</summary>
internal static class ElfImage
{
    private const uint ProgramInterpreter = 3;

    /// <summary>The key=value strings of a kernel module's .modinfo section.</summary>
    public static IReadOnlyList<KeyValuePair<string, string>> ModuleInfo(ReadOnlySpan<byte> elf)
    {
        List<KeyValuePair<string, string>> info = [];
        foreach (string entry in Encoding.UTF8.GetString(Section(elf, ".modinfo")).Split('\0', StringSplitOptions.RemoveEmptyEntries))
        {
            int equals = entry.IndexOf('=');
            if (equals > 0)
                info.Add(new(entry[..equals], entry[(equals + 1)..]));
        }

        return info;
    }

    /// <summary>True for a program that runs without a dynamic loader.</summary>
    public static bool IsStaticProgram(ReadOnlySpan<byte> elf)
    {
        if (!IsElf64(elf))
            return false;
        int offset = Int(BinaryPrimitives.ReadUInt64LittleEndian(elf[0x20..]));
        int size = BinaryPrimitives.ReadUInt16LittleEndian(elf[0x36..]);
        int count = BinaryPrimitives.ReadUInt16LittleEndian(elf[0x38..]);
        for (int i = 0; i < count; i++)
        {
            if (BinaryPrimitives.ReadUInt32LittleEndian(elf[(offset + (i * size))..]) == ProgramInterpreter)
                return false;
        }

        return true;
    }

    private static ReadOnlySpan<byte> Section(ReadOnlySpan<byte> elf, string name)
    {
        if (!IsElf64(elf))
            throw new VirtbusException(Errno.EBADMSG, "A kernel module is no 64-bit ELF file. Install the kernel package anew.");
        int offset = Int(BinaryPrimitives.ReadUInt64LittleEndian(elf[0x28..]));
        int size = BinaryPrimitives.ReadUInt16LittleEndian(elf[0x3A..]);
        int count = BinaryPrimitives.ReadUInt16LittleEndian(elf[0x3C..]);
        int namesIndex = BinaryPrimitives.ReadUInt16LittleEndian(elf[0x3E..]);
        ReadOnlySpan<byte> names = Content(elf, elf.Slice(offset + (namesIndex * size), size));
        byte[] wanted = [.. Encoding.ASCII.GetBytes(name), 0];
        for (int i = 0; i < count; i++)
        {
            ReadOnlySpan<byte> header = elf.Slice(offset + (i * size), size);
            if (names[Int(BinaryPrimitives.ReadUInt32LittleEndian(header))..].StartsWith(wanted))
                return Content(elf, header);
        }

        return [];
    }

    private static ReadOnlySpan<byte> Content(ReadOnlySpan<byte> elf, ReadOnlySpan<byte> header) =>
        elf.Slice(Int(BinaryPrimitives.ReadUInt64LittleEndian(header[0x18..])), Int(BinaryPrimitives.ReadUInt64LittleEndian(header[0x20..])));

    private static bool IsElf64(ReadOnlySpan<byte> elf) => elf.Length >= 0x40 && elf.StartsWith("\u007FELF\u0002\u0001"u8);

    private static int Int(ulong value) => checked((int)value);
}
