using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace Virtbus.Pci;

/// <summary>Config spaces as the text that lspci -xxxx prints and lspci -F reads.</summary>
public static class LspciDump
{
    private const int BytesPerLine = 16;

    /// <summary>Writes one function: a line with its address, the bytes in lines of sixteen, an empty line.</summary>
    /// <param name="writer">Where to.</param>
    /// <param name="address">Where the function is.</param>
    /// <param name="function">The function.</param>
    /// <param name="physical">
    /// The physical function of a virtual one, whose own ids read as all ones: vendor and device id are then written as the system shows them.
    /// </param>
    public static void Write(TextWriter writer, PciAddress address, IPciFunction function, IPciFunction? physical = null)
    {
        var bytes = new byte[function.ConfigSize];
        function.ReadConfig(0, bytes);
        if (physical is not null)
        {
            physical.ReadConfig(PciHeader.PCI_VENDOR_ID, bytes.AsSpan(PciHeader.PCI_VENDOR_ID, 2));
            if (FindSriov(physical) is var sriov and not 0)
                physical.ReadConfig(sriov + PciSriov.PCI_SRIOV_VF_DID, bytes.AsSpan(PciHeader.PCI_DEVICE_ID, 2));
        }
        Write(writer, address, bytes);
    }

    /// <summary>Writes the bytes of one config space.</summary>
    /// <param name="writer">Where to.</param>
    /// <param name="address">Where the function is.</param>
    /// <param name="config">256 or 4096 bytes, in any case a multiple of 16.</param>
    public static void Write(TextWriter writer, PciAddress address, ReadOnlySpan<byte> config)
    {
        if (config.Length < PciHeader.PCI_CFG_SPACE_SIZE || config.Length % BytesPerLine != 0)
            throw new ArgumentException($"A config space of {config.Length} bytes cannot be. Give all 256 or 4096.", nameof(config));
        var line = new StringBuilder();
        line.Append(CultureInfo.InvariantCulture, $"{address} Class {config[PciHeader.PCI_CLASS_DEVICE + 1]:x2}{config[PciHeader.PCI_CLASS_DEVICE]:x2}: ");
        line.Append(CultureInfo.InvariantCulture, $"{BinaryPrimitives.ReadUInt16LittleEndian(config):x4}:");
        line.Append(CultureInfo.InvariantCulture, $"{BinaryPrimitives.ReadUInt16LittleEndian(config[PciHeader.PCI_DEVICE_ID..]):x4}");
        if (config[PciHeader.PCI_REVISION_ID] != 0)
            line.Append(CultureInfo.InvariantCulture, $" (rev {config[PciHeader.PCI_REVISION_ID]:x2})");
        End(writer, line);
        for (var offset = 0; offset < config.Length; offset += BytesPerLine)
        {
            // Three digits from 256 on, as lspci writes.
            line.Append(offset.ToString(offset >= PciHeader.PCI_CFG_SPACE_SIZE ? "x3" : "x2", CultureInfo.InvariantCulture));
            line.Append(':');
            foreach (var value in config.Slice(offset, BytesPerLine))
                line.Append(CultureInfo.InvariantCulture, $" {value:x2}");
            End(writer, line);
        }
        End(writer, line);
    }

    private static void End(TextWriter writer, StringBuilder line)
    {
        writer.Write(line.Append('\n'));
        line.Clear();
    }

    private static int FindSriov(IPciFunction function)
    {
        Span<byte> header = stackalloc byte[4];
        // As many steps as there can be capabilities, so that a list that bites its tail ends too.
        var offset = function.ConfigSize > PciHeader.PCI_CFG_SPACE_SIZE ? PciHeader.PCI_CFG_SPACE_SIZE : 0;
        for (var steps = 0; steps < 960 && offset >= PciHeader.PCI_CFG_SPACE_SIZE && offset <= function.ConfigSize - 4; steps++)
        {
            function.ReadConfig(offset, header);
            var value = BinaryPrimitives.ReadUInt32LittleEndian(header);
            if ((ushort)value == PciExtendedCapabilityId.PCI_EXT_CAP_ID_SRIOV)
                return offset;
            offset = (int)(value >> 20) & ~3;
        }
        return 0;
    }
}
