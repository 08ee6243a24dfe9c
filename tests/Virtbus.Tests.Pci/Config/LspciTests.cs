using System.Diagnostics;
using System.Globalization;
using Virtbus.Hardware.Serial;
using Virtbus.Pci;

namespace Virtbus.Tests.Pci.Config;

/// <summary>The real lspci reads our config spaces.</summary>
public sealed class LspciTests
{
    private const string GoldenVersion = "lspci version 3.9.0";

    [Fact]
    public void Physical_function_reads_as_written_down()
    {
        using var function = Layouts.All[0].Make();
        function.SetConfig(0x10, 0xFE000000);
        function.SetConfig(0x14, 0xC000);
        function.SetConfig(0x1C, 0x80);
        function.SetConfig(0x20, 0xFD000000);
        function.SetConfig(0x30, 0xFC000001);
        function.SetConfig(PciHeader.PCI_COMMAND, 0x0507, 2);
        function.SetConfig(0x62, PciMsix.PCI_MSIX_FLAGS_ENABLE, 2);
        function.SetConfig(0x154 + 2, PciExtended.PCI_ATS_CTRL_ENABLE, 2);
        function.SetConfig(0x168, 16, 2);
        function.SetConfig(0x17C, 0xFB000000);
        function.SetConfig(0x184, 0xFA000000);
        function.SetConfig(0x160, PciSriov.PCI_SRIOV_CTRL_VFE | PciSriov.PCI_SRIOV_CTRL_MSE | PciSriov.PCI_SRIOV_CTRL_ARI, 2);
        Compare("physical", Dump(new PciAddress(0, 1, 0, 0), function));
    }

    [Fact]
    public void Virtual_function_reads_as_written_down()
    {
        using var physical = Layouts.All[0].Make();
        using var function = Layouts.All[1].Make();
        function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_MASTER, 2);
        function.SetConfig(0x7E, PciMsix.PCI_MSIX_FLAGS_ENABLE, 2);
        Compare("virtual", Dump(new PciAddress(0, 1, 1, 0), function, physical));
    }

    [Fact]
    public void Root_port_reads_as_written_down()
    {
        using var port = new PciRootPort(3);
        port.SetPresence(true);
        port.SetConfig(PciHeader.PCI_PRIMARY_BUS, 0x00040100);
        port.SetConfig(PciHeader.PCI_IO_BASE, 0xC0C0, 2);
        port.SetConfig(PciHeader.PCI_MEMORY_BASE, 0xFE00FC00);
        port.SetConfig(PciHeader.PCI_PREF_MEMORY_BASE, 0xFFF00000);
        port.SetConfig(PciHeader.PCI_PREF_BASE_UPPER32, 0x80);
        port.SetConfig(PciHeader.PCI_PREF_LIMIT_UPPER32, 0x83);
        port.SetConfig(PciHeader.PCI_COMMAND, 0x0507, 2);
        port.SetConfig(0x88, PciExpress.PCI_EXP_DEVCTL2_ARI, 2);
        Compare("root-port", Dump(new PciAddress(0, 0, 3, 0), port));
    }

    [Fact]
    public void Serial_port_reads_as_written_down()
    {
        using var function = new SerialFunction();
        function.SetConfig(PciHeader.PCI_BASE_ADDRESS_0, 0xC000);
        function.SetConfig(PciHeader.PCI_INTERRUPT_LINE, 11, 1);
        function.SetConfig(PciHeader.PCI_COMMAND, PciCommand.PCI_COMMAND_IO, 2);
        Compare("serial", Dump(new PciAddress(0, 0, 4, 0), function));
    }

    [Fact]
    public void Dump_has_the_format_of_lspci()
    {
        using var function = new SerialFunction();
        var lines = Dump(new PciAddress(0x10, 2, 3, 4), function).Split('\n');
        Assert.Equal("0010:02:03.4 Class 0700: 1b36:0002 (rev 01)", lines[0]);
        Assert.Equal("00: 36 1b 02 00 00 00 00 00 01 02 00 07 00 00 00 00", lines[1]);
        Assert.Equal(16 + 3, lines.Length);
        Assert.StartsWith("f0: ", lines[16], StringComparison.Ordinal);
        Assert.Equal(["", ""], lines[17..]);
        using var large = Layouts.All[0].Make();
        lines = Dump(default, large).Split('\n');
        Assert.StartsWith("100: 01 00 ", lines[17], StringComparison.Ordinal);
        Assert.StartsWith("ff0: ", lines[256], StringComparison.Ordinal);
    }

    private static string Dump(PciAddress address, IPciFunction function, IPciFunction? physical = null)
    {
        using var writer = new StringWriter(CultureInfo.InvariantCulture);
        LspciDump.Write(writer, address, function, physical);
        return writer.ToString();
    }

    private static void Compare(string name, string dump)
    {
        var program = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':').Append("/usr/sbin").Append("/sbin").Select(f => Path.Combine(f, "lspci")).FirstOrDefault(File.Exists);
        if (program is null)
            Assert.Skip("no 'lspci' on this host: config spaces are not read by it. Install it with: apt-get install pciutils");
        var file = Path.Combine(Path.GetTempPath(), $"virtbus-lspci-{Environment.ProcessId}-{name}.txt");
        File.WriteAllText(file, dump);
        string output;
        try
        {
            output = Run(program, "-n", "-vvv", "-xxxx", "-F", file);
        }
        finally
        {
            File.Delete(file);
        }
        // lspci marks each vendor-specific capability so, as only the vendor knows what is in it.
        Assert.DoesNotContain(output.Split('\n'), l => l.Contains("<?>", StringComparison.Ordinal) && !l.Contains("Vendor Specific Information: ", StringComparison.Ordinal));
        Assert.DoesNotContain("unknown", output, StringComparison.OrdinalIgnoreCase);
        // lspci prints every byte that it was given.
        foreach (var line in dump.Split('\n').Skip(1).Where(l => l.Length > 0))
            Assert.Contains(line, output, StringComparison.Ordinal);
        if (Run(program, "--version").Trim() is var version && version != GoldenVersion)
            Assert.Skip($"this is {version}; the text of {GoldenVersion} is what is written down, so only unknown fields were looked for");
        Assert.Equal(File.ReadAllText(Path.Combine(AppContext.BaseDirectory, "Golden", name + ".txt")), output);
    }

    private static string Run(string program, params string[] arguments)
    {
        var (output, errors, code) = Programs.Run(program, arguments);
        // It may complain of things that it misses (libkmod), so only its answer counts.
        Assert.True(code == 0, errors);
        return output;
    }
}
