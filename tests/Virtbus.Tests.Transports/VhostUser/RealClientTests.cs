using System.Diagnostics;
using System.Text;
using Virtbus.Block;

namespace Virtbus.Tests.Transports.VhostUser;

public sealed class RealClientTests : IDisposable
{
    private const string Greeting = "READ-BY-FIRMWARE\n";

    // Real-mode code, started by the firmware at 0x7c00: reads sector 1 by INT 13h, prints it to port 0xe9 up to its NUL, writes it to
    // sector 2 by INT 13h, and ends the machine through the exit device at port 0x501.
    private static readonly byte[] BootCode =
    [
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0,                                                             // ds = es = 0
        0xb8, 0x01, 0x02, 0xb9, 0x02, 0x00, 0xb6, 0x00, 0xbb, 0x00, 0x80, 0xcd, 0x13, 0x72, 0x1e,       // read or halt
        0xbe, 0x00, 0x80, 0xac, 0x84, 0xc0, 0x74, 0x04, 0xe6, 0xe9, 0xeb, 0xf7,                         // print
        0xb8, 0x01, 0x03, 0xb9, 0x03, 0x00, 0xb6, 0x00, 0xbb, 0x00, 0x80, 0xcd, 0x13,                   // write
        0xba, 0x01, 0x05, 0xb0, 0x10, 0xee, 0xf4, 0xeb, 0xfd,                                           // exit, halt
    ];

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("virtbus");

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public void Firmware_of_a_QEMU_guest_boots_from_the_disk_and_writes_to_it()
    {
        var path = Path.Combine(_folder.FullName, "disk");
        var image = new byte[1 << 20];
        BootCode.CopyTo(image, 0);
        image[510] = 0x55;
        image[511] = 0xaa;
        Encoding.ASCII.GetBytes(Greeting, image.AsSpan(512));
        File.WriteAllBytes(path, image);
        using (var fixture = new VhostUserFixture(FileBackend.Open(path)))
        {
            var (output, errors) = RunQemu(fixture.Socket);
            Assert.Contains(Greeting, output, StringComparison.Ordinal);
            Assert.True(errors.Length == 0, errors);
            Assert.Equal(0, fixture.Server.BadMessages);
            Assert.True(fixture.Server.GetQueueCounters(0).Requests >= 3);
        }

        Assert.Equal(Greeting, Encoding.ASCII.GetString(File.ReadAllBytes(path), 1024, Greeting.Length));
    }

    private static (string Output, string Errors) RunQemu(string socket)
    {
        var start = new ProcessStartInfo("qemu-system-x86_64")
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        };
        foreach (var argument in new[]
        {
            "-display", "none", "-no-reboot", "-nic", "none", "-m", "64", "-machine", "pc,memory-backend=ram",
            "-object", "memory-backend-memfd,id=ram,size=64M,share=on",
            "-chardev", $"socket,id=disk,path={socket}", "-device", "vhost-user-blk-pci,chardev=disk,num-queues=2",
            "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0x501,iosize=1",
        })
        {
            start.ArgumentList.Add(argument);
        }

        try
        {
            using var qemu = Process.Start(start)!;
            var output = qemu.StandardOutput.ReadToEndAsync();
            var errors = qemu.StandardError.ReadToEndAsync();
            if (!qemu.WaitForExit(60_000))
            {
                qemu.Kill();
                Assert.Fail($"the guest did not end in a minute; it printed '{output.Result}' and '{errors.Result}'");
            }

            return (output.Result, errors.Result);
        }
        catch (System.ComponentModel.Win32Exception)
        {
            Assert.Skip("no 'qemu-system-x86_64' on this host: the real front end is not tested");
            throw;
        }
    }
}
