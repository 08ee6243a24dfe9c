using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using Virtbus.Remote.Pci.VfioUser;

namespace Virtbus.Tests.Cli;

/// <summary><c>virtbus console</c> on a real terminal (<c>script</c> gives it one), with the test as the guest's driver at the registers.</summary>
public sealed class ConsoleTerminalTests : IAsyncDisposable
{
    private const string Manifest = "serials:\n  - { name: serial0 }\n";
    // Ctrl-C, Ctrl-Z, Ctrl-D, return, delete, an arrow: to the terminal's driver or to .NET each of them means something.
    private const string Keys = "\u0003\u001a\u0004\r\u007f\u001b[A";
    private const string Leave = "\u001d";

    private readonly TestFabric _fabric = new();
    private readonly StringBuilder _seen = new();

    public ValueTask DisposeAsync() => _fabric.DisposeAsync();

    [Fact]
    public async Task Keys_reach_the_guest_one_by_one_and_are_not_echoed_until_the_user_leaves()
    {
        await _fabric.UpAsync(Manifest);
        using var guest = OpenPort();
        var terminal = await ConnectAsync();
        await TypeAsync(terminal, "k");
        Assert.Equal("k", Hear(guest, 1));
        await TypeAsync(terminal, Keys);
        Assert.Equal(Keys, Hear(guest, Keys.Length));
        Say(guest, "hello\n");
        await SeeAsync(terminal, "hello\r\n");
        await TypeAsync(terminal, "x" + Leave);
        await SeeEndAsync(terminal, "hello\r\ncode 0\r\nas it was\r\n");
        Assert.Equal("x", Hear(guest, 1));
    }

    [Fact]
    public async Task Terminal_is_as_it_was_when_the_daemon_has_gone()
    {
        await _fabric.UpAsync(Manifest);
        var terminal = await ConnectAsync();
        await _fabric.OkAsync("down");
        await SeeEndAsync(terminal, "code 0\r\nas it was\r\n");
    }

    [Theory]
    [InlineData(PosixSignal.SIGTERM, 15)]
    [InlineData(PosixSignal.SIGHUP, 1)]
    public async Task Terminal_is_as_it_was_when_a_signal_ends_the_program(PosixSignal signal, int number)
    {
        await _fabric.UpAsync(Manifest);
        var terminal = await ConnectAsync();
        var console = int.Parse(await File.ReadAllTextAsync(InFolder("pid")));
        using var kill = Process.Start("kill", [$"-{number}", $"{console}"]);
        await terminal.WaitForExitAsync(new CancellationTokenSource(TestFabric.Deadline).Token);
        Assert.True((await RestAsync(terminal)).EndsWith($"code {128 + number}\r\nas it was\r\n", StringComparison.Ordinal), $"{signal}: {_seen}");
    }

    private string InFolder(string name) => Path.Combine(Path.GetDirectoryName(_fabric.Runtime)!, name);

    private async Task<Process> ConnectAsync()
    {
        // Who runs the tests may ignore signals, which the program would inherit.
        var command = _fabric.Write("terminal", $"""
            stty -g >before
            sh -c 'echo $$ >pid; exec env --default-signal "{TestFabric.Program}" console serial0'
            echo code $?
            stty -g >after
            cmp before after && echo as it was

            """);
        var terminal = _fabric.StartProgram("script", "--quiet", "--return", "--command", $"sh {command}", "/dev/null");
        await SeeAsync(terminal, "Ctrl-] leaves.\r\n");
        _seen.Clear();
        return terminal;
    }

    private static async Task TypeAsync(Process terminal, string keys)
    {
        await terminal.StandardInput.WriteAsync(keys);
        await terminal.StandardInput.FlushAsync();
    }

    private async Task SeeAsync(Process terminal, string text)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        var character = new char[1];
        while (!_seen.ToString().EndsWith(text, StringComparison.Ordinal))
        {
            Assert.True(await terminal.StandardOutput.ReadAsync(character, deadline.Token) == 1, $"'{text}' did not come: {_seen}");
            _seen.Append(character);
        }
    }

    private async Task<string> RestAsync(Process terminal)
    {
        using var deadline = new CancellationTokenSource(TestFabric.Deadline);
        return _seen.Append(await terminal.StandardOutput.ReadToEndAsync(deadline.Token)).ToString();
    }

    // All that stood on the terminal since the console was there: no echo is among it.
    private async Task SeeEndAsync(Process terminal, string all) => Assert.Equal(all, await RestAsync(terminal));

    // The registers of a 16550A, BAR 0.
    private const ulong Data = 0, FifoControl = 2, LineControl = 3, LineStatus = 5;
    private const byte DataReady = 0x01, TransmitterEmpty = 0x20;

    private VfioUserClient OpenPort()
    {
        var client = VfioUserClient.Connect(Path.Combine(_fabric.Runtime, "0000:01:00.0.sock"));
        // I/O decoding.
        Assert.True(client.TryWrite(7, 4, [1, 0], out var fault), fault.Message);
        Write(client, LineControl, 3);
        Write(client, FifoControl, 1);
        return client;
    }

    private static void Say(VfioUserClient port, string text)
    {
        foreach (var one in Encoding.ASCII.GetBytes(text))
        {
            Await(port, TransmitterEmpty, "the line takes nothing");
            Write(port, Data, one);
        }
    }

    private static string Hear(VfioUserClient port, int count)
    {
        var text = "";
        while (text.Length < count)
        {
            Await(port, DataReady, $"only '{text}' came");
            text += (char)Read(port, Data);
        }
        return text;
    }

    private static void Await(VfioUserClient port, byte status, string otherwise) =>
        Assert.True(SpinWait.SpinUntil(() => (Read(port, LineStatus) & status) != 0, TestFabric.Deadline), otherwise);

    private static byte Read(VfioUserClient port, ulong register)
    {
        Span<byte> value = stackalloc byte[1];
        Assert.True(port.TryRead(0, register, value, out var fault), fault.Message);
        return value[0];
    }

    private static void Write(VfioUserClient port, ulong register, byte value) => Assert.True(port.TryWrite(0, register, [value], out var fault), fault.Message);
}
