using System.Buffers;
using System.Buffers.Binary;
using System.Text;

namespace Virtbus.Platform;

/// <summary>Puts a state together from sections; <see cref="StateReader"/> takes it apart. One thread at a time.</summary>
public sealed class StateWriter
{
    /// <summary>The first four bytes of a state, the lowest first.</summary>
    public const uint Magic = StateForm.Magic;

    private readonly ArrayBufferWriter<byte> _bytes = new();
    private readonly HashSet<string> _names = [];

    /// <summary>Makes a state without sections.</summary>
    public StateWriter() => _bytes.Write(stackalloc byte[StateForm.HeaderSize]);

    /// <summary>How many bytes the state has by now.</summary>
    public int Size => _bytes.WrittenCount;

    /// <summary>Adds a section.</summary>
    /// <param name="name">Its name, none that another section of the state has; see <see cref="StateSection.Name"/>.</param>
    /// <param name="version">In which form the content is, from 1.</param>
    /// <param name="content">The content; copied.</param>
    /// <param name="isOptional">Whether a reader that does not know the section, or not its version, may leave it out.</param>
    /// <exception cref="ArgumentException">The name is none, or was used; the version is 0.</exception>
    public void Add(string name, ushort version, ReadOnlySpan<byte> content, bool isOptional = false)
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentOutOfRangeException.ThrowIfZero(version);
        var letters = Encoding.UTF8.GetBytes(name);
        if (!StateForm.IsName(letters) || !_names.Add(name))
            throw new ArgumentException($"'{name}' is no name for a section of this state.", nameof(name));
        Span<byte> header = stackalloc byte[StateForm.SectionHeaderSize];
        header[0] = (byte)letters.Length;
        header[1] = isOptional ? StateForm.Optional : (byte)0;
        BinaryPrimitives.WriteUInt16LittleEndian(header[2..], version);
        BinaryPrimitives.WriteInt32LittleEndian(header[4..], content.Length);
        _bytes.Write(header);
        _bytes.Write(letters);
        _bytes.Write(content);
    }

    /// <summary>The whole state.</summary>
    public byte[] ToArray()
    {
        var all = _bytes.WrittenSpan.ToArray();
        BinaryPrimitives.WriteUInt32LittleEndian(all, Magic);
        BinaryPrimitives.WriteUInt16LittleEndian(all.AsSpan(4), StateForm.Version);
        BinaryPrimitives.WriteUInt16LittleEndian(all.AsSpan(6), (ushort)_names.Count);
        BinaryPrimitives.WriteInt32LittleEndian(all.AsSpan(8), all.Length);
        return all;
    }
}
