namespace Virtbus.Core;

/// <summary>Which attribute changed.</summary>
/// <param name="owner">The object.</param>
/// <param name="name">The name of its file.</param>
public sealed class AttributeChangedEventArgs(object owner, string name) : EventArgs
{
    /// <summary>The object whose attribute it is.</summary>
    public object Owner => owner;

    /// <summary>The name of its file.</summary>
    public string Name => name;
}
