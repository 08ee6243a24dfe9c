using Virtbus.Models.VirtioConsole;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>Who sits at the other end of a console of ours: keeps what comes, and sends as much as the console takes.</summary>
internal sealed class TextPeer : IConsolePeer
{
    private readonly List<byte> _text = [];
    private readonly SemaphoreSlim _room = new(0);

    /// <summary>What has come.</summary>
    internal byte[] Text
    {
        get
        {
            lock (_text)
                return [.. _text];
        }
    }

    /// <summary>How many bytes have come.</summary>
    internal int Count
    {
        get
        {
            lock (_text)
                return _text.Count;
        }
    }

    public int Receive(ReadOnlySpan<byte> bytes)
    {
        lock (_text)
            _text.AddRange(bytes);
        return bytes.Length;
    }

    public void CanSend() => _room.Release();

    public void DropUnsent()
    {
    }

    /// <summary>Sends all of it.</summary>
    internal async Task SendAsync(VirtioConsoleDevice console, ReadOnlyMemory<byte> bytes)
    {
        while ((bytes = bytes[console.TrySend(bytes.Span)..]).Length > 0)
            await _room.WaitAsync().In();
    }
}
