using System.Diagnostics;
using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>A program of guest/, compiled for guests, which take it from their standard input.</summary>
internal sealed class GuestProgram
{
    private const int Block = 4096;
    private readonly string _name;
    private readonly Task<byte[]> _bytes;

    /// <summary>Begins to compile one.</summary>
    /// <param name="name">The name of the source without its end, and of the program in the guest's /bin.</param>
    public GuestProgram(string name)
    {
        _name = name;
        _bytes = CompileAsync();
    }

    /// <summary>The begin of a script that takes the program.</summary>
    public async Task<string> PreludeAsync() => $"""
        echo send
        dd of=/bin/{_name} bs={Block} count={(await _bytes).Length / Block} iflag=fullblock
        chmod +x /bin/{_name}

        """;

    /// <summary>Sends the program to a guest whose script has the prelude, once the guest is there: what is sent during a reboot is lost.</summary>
    public async Task SendAsync(Guest guest)
    {
        await guest.SeeAsync("send");
        await guest.TellAsync(await _bytes);
    }

    private async Task<byte[]> CompileAsync()
    {
        var folder = Directory.CreateTempSubdirectory("vb").FullName;
        try
        {
            using var deadline = new CancellationTokenSource(TestFabric.Deadline);
            var program = Path.Combine(folder, _name);
            var source = Path.Combine(AppContext.BaseDirectory, "guest", _name + ".c");
            using var gcc = Process.Start(new ProcessStartInfo("gcc", ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, source])
            {
                RedirectStandardError = true,
                UseShellExecute = false,
            })!;
            var errors = await gcc.StandardError.ReadToEndAsync(deadline.Token);
            await gcc.WaitForExitAsync(deadline.Token);
            Assert.True(gcc.ExitCode == 0, errors);
            var bytes = await File.ReadAllBytesAsync(program, deadline.Token);
            // To whole blocks, as the guest takes it.
            Array.Resize(ref bytes, (bytes.Length + Block - 1) / Block * Block);
            return bytes;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
