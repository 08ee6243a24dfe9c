using System.CommandLine;
using System.Net.Sockets;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

internal static class ConsoleVerb
{
    // Ctrl-], as telnet has it.
    private const byte Leave = 0x1D;
    private const int BufferSize = 4096;

    public static Command Make()
    {
        var port = Names.Console();
        return CommandLine.AskingAsync(
            "console",
            "Talk over a serial port, a console or a line of the fabric: what the other end says is printed, what is typed goes there. Ctrl-] leaves.",
            (result, client) => TalkAsync(client, result.GetRequiredValue(port)),
            port);
    }

    private static async Task<int> TalkAsync(ControlClient client, string name)
    {
        SocketAnswer[] consoles = [.. Sockets.All(client).Where(s => s.Protocol == Sockets.Console)];
        var console = consoles.FirstOrDefault(s => Sockets.IsOf(s, name)) ?? throw new VirtbusException(
            Errno.ENODEV,
            $"No serial port, console or line '{name}' is there.{Suggestion.For(name, consoles.Select(static s => s.Device))} {(consoles.Length == 0 ? "This fabric has none; add one under 'serials' in the manifest." : $"There are {string.Join(", ", consoles.Select(Sockets.Title))}.")}");
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(console.Path));
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.AccessDenied)
        {
            throw new VirtbusException(Errno.EACCES, $"{console.Path} may not be opened (EACCES): it belongs to the user whose fabric this is. Run as that user.", e);
        }
        catch (SocketException e)
        {
            throw new VirtbusException(Errno.ECONNREFUSED, $"Nothing listens on {console.Path}: {e.Message}. Is the fabric just going down?", e);
        }
        var isTerminal = !Console.IsInputRedirected;
        using var terminal = isTerminal ? RawTerminal.Enter() : null;
        if (isTerminal)
            await Console.Error.WriteLineAsync($"Connected to {Sockets.Title(console)}. Ctrl-] leaves.");
        var typed = TypeAsync(socket, isTerminal);
        var printed = PrintAsync(socket, StandardOutput.Stream);
        // What is piped in has an end; then only what the guest says is of interest, until somebody ends us or the line.
        if (await Task.WhenAny(typed, printed) == typed && (await typed || isTerminal))
            return ExitCode.Done;
        await printed;
        return ExitCode.Done;
    }

    // True when the user wants to leave.
    private static async Task<bool> TypeAsync(Socket socket, bool isTerminal)
    {
        await using var input = isTerminal ? RawTerminal.OpenKeys() : Console.OpenStandardInput();
        var buffer = new byte[BufferSize];
        int count;
        while ((count = await Task.Run(() => input.Read(buffer))) > 0)
        {
            var leave = isTerminal ? buffer.AsSpan(0, count).IndexOf(Leave) : -1;
            var bytes = buffer.AsMemory(0, leave < 0 ? count : leave);
            try
            {
                while (bytes.Length > 0)
                    bytes = bytes[await socket.SendAsync(bytes)..];
            }
            catch (SocketException)
            {
                // The line is gone, which the other direction tells.
                return false;
            }
            if (leave >= 0)
                return true;
        }
        return false;
    }

    private static async Task PrintAsync(Socket socket, Stream output)
    {
        var buffer = new byte[BufferSize];
        try
        {
            int count;
            while ((count = await socket.ReceiveAsync(buffer)) > 0)
            {
                await output.WriteAsync(buffer.AsMemory(0, count));
                await output.FlushAsync();
            }
        }
        catch (SocketException)
        {
            // Expected: the fabric ended, or another client took the line over.
        }
    }
}
