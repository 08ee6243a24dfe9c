namespace Virtbus.Core;

/// <summary>Attributes that belong together, in the object's own directory or in one below it. Static and shared by all objects of a kind.</summary>
public sealed class AttributeGroup
{
    private readonly Func<object, IEnumerable<ObjectAttribute>> _list;
    private Func<object, IEnumerable<(string Name, object Owner)>>? _parts;

    private AttributeGroup(string? name, Func<object, IEnumerable<ObjectAttribute>> list)
    {
        Name = name;
        _list = list;
    }

    /// <summary>A group of fixed attributes in the object's own directory.</summary>
    /// <param name="attributes">The attributes.</param>
    public AttributeGroup(params ObjectAttribute[] attributes)
        : this(null, _ => attributes)
    {
    }

    /// <summary>A group of fixed attributes in a directory of its own.</summary>
    /// <param name="name">The directory's name.</param>
    /// <param name="attributes">The attributes.</param>
    public AttributeGroup(string name, params ObjectAttribute[] attributes)
        : this(name, _ => attributes)
    {
    }

    /// <summary>The directory's name; null for the object's own directory.</summary>
    public string? Name { get; }

    /// <summary>Whether an object that has none of the attributes has no directory either (Linux: SYSFS_GROUP_INVISIBLE); of a group with a name.</summary>
    public bool IsHiddenWhenEmpty { get; init; }

    /// <summary>A directory whose files depend on the object (Linux: <c>irqs/</c>).</summary>
    /// <param name="name">The directory's name.</param>
    /// <param name="list">The attributes of an object at this moment.</param>
    /// <typeparam name="T">The object's type.</typeparam>
    public static AttributeGroup Dynamic<T>(string name, Func<T, IEnumerable<ObjectAttribute>> list)
        where T : class => new(name, owner => list((T)owner));

    /// <summary>A directory with one directory below it for each part of the object (Linux: <c>queues/rx-0</c>), all with the same attributes; none where there is no part.</summary>
    /// <param name="name">The directory's name.</param>
    /// <param name="parts">The parts of an object at this moment, each with the name of its directory.</param>
    /// <param name="attributes">The attributes of a part.</param>
    /// <typeparam name="T">The object's type.</typeparam>
    /// <typeparam name="TPart">The type of its parts.</typeparam>
    public static AttributeGroup OfParts<T, TPart>(string name, Func<T, IEnumerable<(string Name, TPart Part)>> parts, params ObjectAttribute[] attributes)
        where T : class
        where TPart : class => new(name, attributes) { _parts = owner => parts((T)owner).Select(static p => (p.Name, (object)p.Part)) };

    /// <summary>The parts whose attributes these are; null for the object's own.</summary>
    internal IEnumerable<(string Name, object Owner)>? PartsOf(object owner) => _parts?.Invoke(owner);

    internal IEnumerable<ObjectAttribute> List(object owner)
    {
        foreach (var attribute in _list(owner))
        {
            if (attribute.IsVisible(owner))
                yield return attribute;
        }
    }
}
