using Virtbus.Hardware.Serial;
using Virtbus.Models.VirtioConsole;
using Virtbus.Platform;

namespace Virtbus.Daemon.Provisioning;

/// <summary>A device of a guest by which text goes both ways. The members are those of <see cref="SerialPort"/>.</summary>
internal interface ITextPort
{
    int Resets { get; }

    /// <summary>How many bytes of the guest are kept for a client that does not read, before more has to wait or is lost.</summary>
    int Backlog { get; }

    bool TryConnect(SerialLine line, out Fault fault);

    void Disconnect(SerialLine line);

    int TrySend(ReadOnlySpan<byte> bytes, int resets);

    void Resume();
}

/// <summary>A serial port.</summary>
internal sealed class SerialTextPort(SerialPort port) : ITextPort
{
    public int Resets => port.Resets;

    public int Backlog => 64 << 10;

    public bool TryConnect(SerialLine line, out Fault fault) => port.TryConnect(line, out fault);

    public void Disconnect(SerialLine line) => port.Disconnect(line);

    public int TrySend(ReadOnlySpan<byte> bytes, int resets) => port.TrySend(bytes, resets);

    public void Resume() => port.Resume();
}

/// <summary>A virtio console.</summary>
internal sealed class ConsoleTextPort(VirtioConsoleDevice console) : ITextPort
{
    public int Resets => console.Resets;

    // Room for what a guest prints while a busy host has not run the client yet.
    public int Backlog => 1 << 20;

    public bool TryConnect(SerialLine line, out Fault fault) => console.TryConnect(line, out fault);

    public void Disconnect(SerialLine line) => console.Disconnect(line);

    public int TrySend(ReadOnlySpan<byte> bytes, int resets) => console.TrySend(bytes, resets);

    // The guest waits for nobody.
    public void Resume()
    {
    }
}
